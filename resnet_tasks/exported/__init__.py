"""Loading of exported models and prediction with them, without torch."""
