"""Types and ranges of single values, shared by the shapes of configs and options."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StrictStr

# Upper bounds keep sums of times within 64 bits and tables within memory; nothing real comes near them.
Count = Annotated[int, Field(ge=1, le=1 << 40)]
Counter = Annotated[int, Field(ge=0, le=1 << 40)]
Positive = Annotated[float, Field(gt=0, le=1e15)]
Seconds = Annotated[float, Field(ge=0, le=1e9)]
NonNegative = Annotated[float, Field(ge=0, le=1e15)]
Nanoseconds = Annotated[int, Field(ge=0, le=10**12)]
Fraction = Annotated[float, Field(gt=0, le=1)]
Name = Annotated[StrictStr, Field(min_length=1)]
Dtype = Literal["float16", "bfloat16", "float32", "fp8", "fp8_block", "int8", "nvfp4", "fp4"]
KvDtype = Literal["auto", "fp8"]
