"""What all tests share: shapes are checked while they run, and one small corpus is written once."""

from jaxtyping import install_import_hook

# Every annotated shape in vimss is checked at run time, in tests only.
_hook = install_import_hook("vimss", "beartype.beartype")
