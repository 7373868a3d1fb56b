"""What the console asks: routes below /console/api, for admins only.

Every change that is made here is in the audit log, with who made it and from where.
"""
