"""What every part of the library speaks: text, figures and pages.

It knows no question and no network.
"""
