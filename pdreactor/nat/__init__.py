"""The translation in the firewall. The backend is chosen here and nowhere else."""
