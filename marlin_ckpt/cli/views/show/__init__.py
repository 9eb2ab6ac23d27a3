"""What `show` prints of a file: its `contents`, as a `tree`, and its `tensors`."""
