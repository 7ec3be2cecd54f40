fn main() -> Result<(), Box<dyn std::error::Error>> {
    understudy_proto_build::compile(
        &["understudy/jobs/v1/jobs.proto", "google/longrunning/operations.proto"],
        &[],
    )
}
