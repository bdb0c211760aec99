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

from tsae.entropy.arrays import HEADS, LANES

INT16, INT32 = ir.IntType(16), ir.IntType(32)
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


def _rectified(context: Any, builder: ir.IRBuilder, field_type: Any, field: Any, index: Any, shift: Any, limit: Any) -> Any:
    """`min(max(field[index + k] >> shift, 0), limit)` for k below LANES, in 32 bits."""
    loaded = _load(context, builder, field_type, field, index, LANES)
    shifted = builder.ashr(loaded, _splat(builder, shift, LANES))
    for order, bound in ((">", INT32(0)), ("<", limit)):
        bounds = _splat(builder, bound, LANES)
        shifted = builder.select(builder.icmp_signed(order, shifted, bounds), shifted, bounds)
    return shifted


@intrinsic  # type: ignore[untyped-decorator]
def dot(typing: Any, field: Any, i: Any, b: Any, j: Any, shift: Any, limit: Any) -> tuple[Any, Lowering]:
    """`sum(min(max(field[i + k] >> shift, 0), limit) * b[j + k] for k in range(LANES))`, int32; flat, int32 and int16.

    The limit is within 15 bits.
    """

    def lower(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
        rectified = _rectified(context, builder, field, values[0], values[1], values[4], values[5])
        one = builder.sext(builder.trunc(rectified, ir.VectorType(INT16, LANES)), WIDE)
        two = _load(context, builder, b, values[2], values[3], LANES)
        add = get_or_insert_function(builder.module, ir.FunctionType(INT32, [WIDE]), f"llvm.vector.reduce.add.v{LANES}i32")
        return builder.call(add, [builder.mul(one, two)])

    return types.int32(field, types.intp, b, types.intp, types.int32, types.int32), lower


def _sum_pairs(builder: ir.IRBuilder, one: Any, two: Any) -> Any:
    """`one[2 k] * two[2 k] + one[2 k + 1] * two[2 k + 1]` of vectors of 16-bit integers, in 32 bits.

    In this form, LLVM makes one instruction of it where the processor has one: pmaddwd, vpdpwssd.
    """
    count = one.type.count
    wide = ir.VectorType(INT32, count)
    products = builder.mul(builder.sext(one, wide), builder.sext(two, wide))
    halves = [ir.Constant(ir.VectorType(INT32, count // 2), list(range(start, count, 2))) for start in (0, 1)]
    return builder.add(*(builder.shuffle_vector(products, products, half) for half in halves))


def _load_pairs(context: Any, builder: ir.IRBuilder, array_type: Any, array: Any, index: Any, lanes: int) -> Any:
    """So many pairs of 16-bit integers from an index on."""
    place, align = _place(context, builder, array_type, array, index, 2 * lanes)
    return builder.load(place, align=align)


@intrinsic  # type: ignore[untyped-decorator]
def add_pairs(typing: Any, out: Any, i: Any, weight: Any, j: Any, one: Any, two: Any) -> tuple[Any, Lowering]:
    """`out[i + k] += weight[j + 2 * k] * one + weight[j + 2 * k + 1] * two` for k below LANES; flat, int32 and int16.

    The factors are within 16 bits.
    """

    def lower(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> Any:
        _, at, _, start, low, high = values
        pair = builder.or_(builder.and_(low, INT32(0xFFFF)), builder.shl(high, INT32(16)))
        factors = builder.bitcast(_splat(builder, pair, LANES), ir.VectorType(INT16, 2 * LANES))
        weights = _load_pairs(context, builder, weight, values[2], start, LANES)
        total = builder.add(_load(context, builder, out, values[0], at, LANES), _sum_pairs(builder, weights, factors))
        _store(context, builder, out, values[0], at, total)
        return context.get_dummy_value()

    return types.void(out, types.intp, weight, types.intp, types.int32, types.int32), lower


@intrinsic  # type: ignore[untyped-decorator]
def weigh_pairs(typing: Any, out: Any, i: Any, values: Any, j: Any, weight: Any, n: Any) -> tuple[Any, Lowering]:
    """`out[i + h] += sum(values[j + k] * weight[n + 2 * HEADS * (k // 2) + 2 * h + k % 2] for k in range(LANES))`.

    For h below HEADS; flat arrays, int32, int16 and int16. All sums at once, as adding up within a vector is slow.
    """

    def lower(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        to, at, source, start, weights, first = arguments
        total = _load(context, builder, out, to, at, HEADS)
        data, _ = _place(context, builder, values, source, start, LANES)
        pairs = builder.bitcast(data, INT32.as_pointer())
        for pair in range(LANES // 2):
            number = builder.load(builder.gep(pairs, [INT32(pair)]), align=2)
            factors = builder.bitcast(_splat(builder, number, HEADS), ir.VectorType(INT16, 2 * HEADS))
            place = builder.add(first, first.type(2 * HEADS * pair))
            total = builder.add(
                total, _sum_pairs(builder, _load_pairs(context, builder, weight, weights, place, HEADS), factors)
            )
        _store(context, builder, out, to, at, total)
        return context.get_dummy_value()

    return types.void(out, types.intp, values, types.intp, weight, types.intp), lower


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
        shifted = _rectified(context, builder, field, *values[2:])
        _store(context, builder, out, values[0], values[1], shifted)
        return context.get_dummy_value()

    return types.void(out, types.intp, field, types.intp, types.int32, types.int32), lower
