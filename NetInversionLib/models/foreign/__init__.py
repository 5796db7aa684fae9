"""Networks from elsewhere: described, probed, adapted to what the questions expect."""
