"""What the tests of the pages share: parsed pages, a shell, and projects in the documented states."""
