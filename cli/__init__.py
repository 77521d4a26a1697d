"""The command line: each command is options and one call into the packages below."""
