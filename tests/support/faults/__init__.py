"""Tools of the fault tests: stages in processes of their own, which a test stops or fails at any system call."""
