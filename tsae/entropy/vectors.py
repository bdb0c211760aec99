"""What the kernels do with LANES numbers at once, as vector instructions of whatever processor there is.

Numba makes vectors of loops as short as these by halves at best, which costs half of the speed. Each function but `room` is
a numba intrinsic: it can only be called from compiled code, and its docstring says what it does as plain Python. None checks
bounds. Sums are of 32 bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core.cgutils import get_or_insert_function
from numba.extending import intrinsic

from tsae.entropy.arrays import LANES

INT32 = ir.IntType(32)
WIDE = ir.VectorType(INT32, LANES)

Lowering = Callable[[Any, ir.IRBuilder, Any, Any], Any]


def _place(context: Any, builder: ir.IRBuilder, array_type: Any, array: Any, index: Any, lanes: int) -> tuple[Any, int]:
    """Pointer to so many elements from an index on, and the alignment that they are sure to have."""
    data = context.make_array(array_type)(context, builder, array).data
    element = context.get_data_type(array_type.dtype)
    return builder.bitcast(builder.gep(data, [index]), ir.VectorType(element, lanes).as_pointer()), element.width // 8


def _load(context: Any, builder: ir.IRBuilder, array_type: Any, array: Any, index: Any, lanes: int) -> Any:
    """Elements from an index on, as 32-bit integers."""
    place, align = _place(context, builder, array_type, array, index, lanes)
    loaded = builder.load(place, align=align)
    return loaded if loaded.type == ir.VectorType(INT32, lanes) else builder.sext(loaded, ir.VectorType(INT32, lanes))


def _store(context: Any, builder: ir.IRBuilder, array_type: Any, array: Any, index: Any, value: Any) -> None:
    """Stores 32-bit integers, cut to the array's type."""
    place, align = _place(context, builder, array_type, array, index, value.type.count)
    cut = ir.VectorType(context.get_data_type(array_type.dtype), value.type.count)
    builder.store(value if cut == value.type else builder.trunc(value, cut), place, align=align)


def _splat(builder: ir.IRBuilder, value: Any, lanes: int) -> Any:
    """The same number in all lanes."""
    vector = ir.VectorType(INT32, lanes)
    single = builder.insert_element(ir.Constant(vector, ir.Undefined), value, INT32(0))
    return builder.shuffle_vector(single, single, ir.Constant(vector, [0] * lanes))


@intrinsic  # type: ignore[untyped-decorator]
def at(typing: Any, array: Any, i: Any) -> tuple[Any, Lowering]:
    """`array[i]` of a flat array as an int64, where numba itself would first look whether `i` counts from the end."""

    def lower(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
        data = context.make_array(array)(context, builder, values[0]).data
        value = builder.load(builder.gep(data, [values[1]]))
        if value.type.width == 64:
            return value
        return (builder.sext if array.dtype.signed else builder.zext)(value, ir.IntType(64))

    return types.int64(array, types.intp), lower


@intrinsic  # type: ignore[untyped-decorator]
def copy_lanes(typing: Any, out: Any, i: Any, source: Any, j: Any) -> tuple[Any, Lowering]:
    """`out[i + k] = source[j + k]` for k below LANES; flat int32 arrays."""

    def lower(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
        _store(context, builder, out, values[0], values[1], _load(context, builder, source, values[2], values[3], LANES))
        return context.get_dummy_value()

    return types.void(out, types.intp, source, types.intp), lower


@intrinsic  # type: ignore[untyped-decorator]
def dot(typing: Any, a: Any, i: Any, b: Any, j: Any) -> tuple[Any, Lowering]:
    """`sum(a[i + k] * b[j + k] for k in range(LANES))` of flat int16 arrays, an int32."""

    def lower(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
        one = _load(context, builder, a, values[0], values[1], LANES)
        two = _load(context, builder, b, values[2], values[3], LANES)
        add = get_or_insert_function(builder.module, ir.FunctionType(INT32, [WIDE]), f"llvm.vector.reduce.add.v{LANES}i32")
        return builder.call(add, [builder.mul(one, two)])

    return types.int32(a, types.intp, b, types.intp), lower


@intrinsic  # type: ignore[untyped-decorator]
def add_pairs(typing: Any, out: Any, i: Any, weight: Any, j: Any, one: Any, two: Any) -> tuple[Any, Lowering]:
    """`out[i + k] += weight[j + k] * one + weight[j + LANES + k] * two` for k below LANES; flat, int32 and int16."""

    def lower(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
        _, at, _, start, *factors = values
        total = _load(context, builder, out, values[0], at, LANES)
        for factor in factors:
            product = builder.mul(_load(context, builder, weight, values[2], start, LANES), _splat(builder, factor, LANES))
            total = builder.add(total, product)
            start = builder.add(start, start.type(LANES))
        _store(context, builder, out, values[0], at, total)
        return context.get_dummy_value()

    return types.void(out, types.intp, weight, types.intp, types.int32, types.int32), lower


@intrinsic  # type: ignore[untyped-decorator]
def add_eight(typing: Any, out: Any, i: Any, weight: Any, j: Any, one: Any) -> tuple[Any, Lowering]:
    """`out[i + k] += weight[j + k] * one` for k below 8; flat int32 arrays."""

    def lower(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
        product = builder.mul(_load(context, builder, weight, values[2], values[3], 8), _splat(builder, values[4], 8))
        total = builder.add(_load(context, builder, out, values[0], values[1], 8), product)
        _store(context, builder, out, values[0], values[1], total)
        return context.get_dummy_value()

    return types.void(out, types.intp, weight, types.intp, types.int32), lower


@intrinsic  # type: ignore[untyped-decorator]
def rectify(typing: Any, out: Any, i: Any, field: Any, j: Any, shift: Any, limit: Any) -> tuple[Any, Lowering]:
    """`out[i + k] = min(max(field[j + k] >> shift, 0), limit)` for k below LANES; flat, int16 and int32."""

    def lower(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
        loaded = _load(context, builder, field, values[2], values[3], LANES)
        shifted = builder.ashr(loaded, _splat(builder, values[4], LANES))
        for order, bound in ((">", INT32(0)), ("<", values[5])):
            bounds = _splat(builder, bound, LANES)
            shifted = builder.select(builder.icmp_signed(order, shifted, bounds), shifted, bounds)
        _store(context, builder, out, values[0], values[1], shifted)
        return context.get_dummy_value()

    return types.void(out, types.intp, field, types.intp, types.int32, types.int32), lower
