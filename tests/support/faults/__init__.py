"""What the proofs of this folder stand on: stages run in processes of their own, stopped at a system call of choice."""
