"""Configurations: `in_force` is what a YAML file sets, `starter` the one that `init` wrote."""
