fn main() -> Result<(), Box<dyn std::error::Error>> {
    understudy_proto_build::compile(
        &["understudy/network/v1/network.proto", "understudy/network/v1/tasks.proto"],
        &[],
    )
}
