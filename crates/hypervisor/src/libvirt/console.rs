//! What a machine's screen shows (R-TF-8).

use understudy_ids::MachineName;

use super::{
    LibvirtHypervisor, describe,
    machines::{self, look_up},
    session::failed,
};
use crate::{Console, Error, PowerState, screenshot::Picture};

/// More than a screen of 4096 by 2160 takes when nothing of it is compressed.
const MAX_IMAGE: usize = 32 << 20;

impl LibvirtHypervisor {
    pub(super) async fn look(&self, machine: &MachineName) -> Result<Console, Error> {
        let what = format!("the screenshot of machine {machine}");
        let (machine, named) = (machine.clone(), what.clone());
        self.session
            .call(what, move |connection| {
                let domain = look_up(connection, &machine)?;
                if machines::power(&domain)? == PowerState::ShutOff {
                    return Ok(Console::Dark("the machine does not run".to_owned()));
                }
                if describe::hardware(&describe::description(&domain, false)?, &[])
                    .is_ok_and(|hardware| hardware.video.is_none())
                {
                    return Ok(Console::Dark("the machine has no display".to_owned()));
                }
                let image = domain.screenshot(MAX_IMAGE).map_err(failed(named.clone()))?;
                let picture = Picture::read(&image).map_err(|why| Error::Failed { what: named, why })?;
                Ok(Console::of(picture))
            })
            .await
    }
}
