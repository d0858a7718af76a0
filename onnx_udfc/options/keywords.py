from typing import TypedDict, Any
class Keywords(TypedDict, total=False):
    prune: Any
