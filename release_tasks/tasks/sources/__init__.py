"""The sources of a configuration: what each file says, line by line, and what Invoke cannot load."""
