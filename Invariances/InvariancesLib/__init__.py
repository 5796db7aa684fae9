"""Parts of the module Invariances."""
