"""The modules that the command can train without any code of the user's."""
