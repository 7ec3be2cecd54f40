fn main() -> Result<(), Box<dyn std::error::Error>> {
    understudy_proto_build::compile(&["understudy/recovery/v1/recovery.proto"], &[])
}
