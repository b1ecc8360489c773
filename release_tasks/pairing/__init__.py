"""Who may write to the service by direct message: policy, store, senders."""
