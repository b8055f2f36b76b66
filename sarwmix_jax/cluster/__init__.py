"""How the processes of a job over several devices or hosts find each other, and end together."""
