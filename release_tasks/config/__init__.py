"""The configuration in invoke.yaml: ``schema`` lists all keys, ``load`` reads and checks the values."""
