fn main() -> Result<(), Box<dyn std::error::Error>> {
    understudy_proto_build::compile(&["understudy/types/v1/types.proto"], &[])
}
