"""Programs of this repository: its release and its coverage table. They are not part of the wheel."""
