"""What `list` prints: `rows` is the table and what is said below it, `following` draws it again and again."""
