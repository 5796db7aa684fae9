"""NetInversion: trained medical-imaging networks, run backwards.

Research use only, never diagnosis.
"""

__version__ = "0.1.0"
