"""What the tests of this folder stand on: the pages taken apart, a shell, and projects in the states spoken of."""
