//! `understudy.recovery.v1.AuditService`.

use tonic::{Request, Response, Status, async_trait};
use understudy_recovery_api::{
    request::Page,
    v1::{self, audit_service_server::AuditService},
};
use understudy_rpc::ApiError;

use super::{
    Api,
    paging::{after_key, cut, sql_limit},
};

#[async_trait]
impl AuditService for Api {
    async fn list_audit_records(
        &self,
        request: Request<v1::ListAuditRecordsRequest>,
    ) -> Result<Response<v1::ListAuditRecordsResponse>, Status> {
        let v1::ListAuditRecordsRequest { page_size, page_token } = request.into_inner();
        let page = Page::from_wire(page_size, page_token).map_err(ApiError::from)?;
        let before = after_key::<i64>(&page)?.unwrap_or(i64::MAX);
        let records = self.runtime.list_audit_records(before, sql_limit(&page)).await?;
        let (records, next_page_token) = cut(&page, records, |(number, _)| number.to_string());
        let records = records.into_iter().map(|(_, record)| record.into_wire()).collect();
        Ok(Response::new(v1::ListAuditRecordsResponse { records, next_page_token }))
    }
}
