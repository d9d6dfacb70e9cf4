"""What a person runs on the login node: one file a command, each with main(argv) -> int."""
