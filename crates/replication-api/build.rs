fn main() -> Result<(), Box<dyn std::error::Error>> {
    understudy_proto_build::compile(
        &[
            "understudy/replication/v1/activation.proto",
            "understudy/replication/v1/facts.proto",
            "understudy/replication/v1/keys.proto",
            "understudy/replication/v1/sink.proto",
            "understudy/replication/v1/tasks.proto",
        ],
        &["."],
    )
}
