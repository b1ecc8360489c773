"""What invoke.yaml may say: ``schema`` is the one list of keys, ``load`` reads and checks them."""
