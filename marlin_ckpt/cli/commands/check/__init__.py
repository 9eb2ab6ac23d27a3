"""Commands that read every byte: `verify` says what is damaged, `salvage` rescues what is not."""
