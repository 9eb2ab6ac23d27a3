"""The command `marlin-ckpt`: one file a command, which parses, calls the library and hands on to render."""
