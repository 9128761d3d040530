"""Places each request on a GPU worker, and keeps the promises made about deadlines and fairness.

Paints nothing and stores nothing; loses only its view of the fleet when it dies.
"""
