"""The safetensors format: `header` reads headers, `writer` writes a file, `shards` divides tensors."""
