"""The safetensors format: `header` reads the header of a file, and `writer` writes a file."""
