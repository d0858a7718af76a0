"""What a network is run on: the user's data, or made-up inputs brought to its scale."""
