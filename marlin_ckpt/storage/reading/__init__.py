"""How long stretches of files are read by several threads at a time.

- `readers`: what each thread reads with, kept for its next stretch; many small ones, asked for at once.
- `past_cache`: reads what is in no memory past the page cache.
"""
