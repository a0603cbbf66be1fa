"""How replicas move from one revision to another: arithmetic on counts, with no object in sight.

Standard library only. A revision is a name here, a replica a number, a moment an argument.
"""
