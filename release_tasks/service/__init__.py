"""The running service seen from outside: it answers on time, and no strange answer is believed."""
