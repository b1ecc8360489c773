"""The embedded reference gateway: a small service to try releases and rollbacks on."""
