"""Parts of the module Ideal Input."""
