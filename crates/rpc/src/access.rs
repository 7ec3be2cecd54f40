//! Who may call what: one table per service, enforced before the handler.
//!
//! ```text
//!   const RULES: &[AccessRule] = &[
//!       AccessRule::new("/understudy.jobs.v1.WorkerService/LeaseTasks", &[PeerKind::Agent, PeerKind::NetworkMapper]),
//!       …
//!   ];
//! ```
//!
//! A method without a rule is refused, and a server that has one does not start. [`methods_without_rule`] says the same in a
//! service's own test, from the descriptor set that its stubs were generated from.

use prost::Message;
use prost_types::FileDescriptorSet;
use understudy_pki::PeerKind;

/// Every class of peer, for methods that anyone with a certificate may call.
pub const ANYONE: &[PeerKind] = &PeerKind::ALL;

/// One line of a service's access table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AccessRule {
    /// Full path of the method, such as `/understudy.jobs.v1.JobService/GetJob`.
    pub method: &'static str,
    /// Who may call it. An empty list allows nobody.
    pub allow: &'static [PeerKind],
}

impl AccessRule {
    pub const fn new(method: &'static str, allow: &'static [PeerKind]) -> Self {
        Self { method, allow }
    }
}

/// A method as its descriptor declares it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Method {
    /// Full path, such as `/understudy.jobs.v1.JobService/GetJob`.
    pub path: String,
    /// Service with its package.
    pub service: String,
    /// Whether either side sends more than one message. Streams have no default deadline.
    pub streaming: bool,
}

/// A descriptor set that cannot be read. It is compiled into the program, so this is a mistake in the build.
#[derive(Debug, thiserror::Error)]
#[error("the descriptor set compiled into this program cannot be read: {0}")]
pub struct BadDescriptors(#[from] prost::DecodeError);

/// All methods that an encoded `FileDescriptorSet` declares.
pub fn methods(descriptors: &[u8]) -> Result<Vec<Method>, BadDescriptors> {
    let set = FileDescriptorSet::decode(descriptors)?;
    let mut methods = Vec::new();
    for file in &set.file {
        for declared in &file.service {
            let service = match file.package() {
                "" => declared.name().to_owned(),
                package => format!("{package}.{}", declared.name()),
            };
            methods.extend(declared.method.iter().map(|method| Method {
                path: format!("/{service}/{}", method.name()),
                service: service.clone(),
                streaming: method.client_streaming() || method.server_streaming(),
            }));
        }
    }
    Ok(methods)
}

/// Methods of `services` (names with package) that no rule names, and rules that name no such method: both are mistakes.
///
/// For the test that every service has; the server checks the first half again when it starts.
pub fn methods_without_rule(
    descriptors: &[u8],
    services: &[&str],
    rules: &[AccessRule],
) -> Result<Vec<String>, BadDescriptors> {
    let declared: Vec<Method> =
        methods(descriptors)?.into_iter().filter(|m| services.contains(&m.service.as_str())).collect();
    let uncovered = declared
        .iter()
        .filter(|method| !rules.iter().any(|rule| rule.method == method.path))
        .map(|method| format!("{} has no access rule", method.path));
    let stale = rules
        .iter()
        .filter(|rule| !declared.iter().any(|method| rule.method == method.path))
        .map(|rule| format!("{} is in the access table but is no method", rule.method));
    Ok(uncovered.chain(stale).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_and_their_shape_are_read_off_the_descriptors() {
        let found = methods(tonic_health::pb::FILE_DESCRIPTOR_SET).unwrap();
        let shapes: Vec<_> = found.iter().map(|m| (m.path.as_str(), m.streaming)).collect();
        assert!(shapes.contains(&("/grpc.health.v1.Health/Check", false)), "{shapes:?}");
        assert!(shapes.contains(&("/grpc.health.v1.Health/Watch", true)), "{shapes:?}");
    }

    #[test]
    fn a_missing_rule_and_a_stale_rule_are_both_found() {
        let check = |rules: &[AccessRule]| {
            methods_without_rule(tonic_health::pb::FILE_DESCRIPTOR_SET, &["grpc.health.v1.Health"], rules)
                .unwrap()
        };
        let all: Vec<AccessRule> = methods(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .unwrap()
            .iter()
            .map(|m| AccessRule::new(m.path.clone().leak(), ANYONE))
            .collect();
        assert_eq!(check(&all), Vec::<String>::new());
        assert_eq!(check(&all[1..]).len(), 1);
        let mut stale = all;
        stale.push(AccessRule::new("/grpc.health.v1.Health/Gone", ANYONE));
        assert_eq!(check(&stale), ["/grpc.health.v1.Health/Gone is in the access table but is no method"]);
    }
}
