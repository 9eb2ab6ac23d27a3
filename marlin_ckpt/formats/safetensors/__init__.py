"""The safetensors format: `header` reads the header of a file, `writer` writes a file, `shards` divides tensors."""
