"""What a trained network is worth: attacks, AutoAttack, per-image outcomes and the front."""
