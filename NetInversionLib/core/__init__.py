"""What every part of the library speaks: text, figures and pages; it knows no question and no
network."""
