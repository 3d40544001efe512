// Private body, compiled once per ISA: sums of products of weights (unsigned bytes) with int8 activations inside a block. With VNNI one
// instruction multiplies and adds up in 32 bits. Without, two products of bytes are added up in 16 bits, where more such sums fit the narrower
// the weights are; only then are they widened [M: one core of Zen 3, GOP/s with 64 tokens, each pair widened at once and so: Q4_K 97, 160;
// Q5_0 95, 148; Q6_K 112, 120].

#if QK_PAIR_SUMS

/// Vectors of weights (quads of columns) whose products fit into sums of 16 bits: n * 2 * (2^bits - 1) * 127 < 2^15.
INLINE int quads_of_sum(int bits) { return bits <= 4 ? 8 : bits == 5 ? 4 : 2; }

/// The same sum. The compiler would bring the additions of a block into another order, for which it would have to set aside most of the weights.
/// Not volatile as b_opaque is: after each of those it would read the pointers to the activations again.
INLINE void keep_order(vi *x) { __asm__("" : "+x"(x->a), "+x"(x->b)); }

/// sum + the pairs that are in 16 bits.
INLINE vi dot_end(vi sum, vi pairs, int bits) { return bits == 8 ? sum : i_dot16(sum, pairs, i_set1(0x00010001)); }

/// Adds 16 rows' products of quad j of a block (j = 0, 1 ... in order) with 4 activations to *sum, or to *pairs, which dot_end brings in.
/// 8-bit weights are signed (b_signed), because two products of larger ones would not fit: |w| <= 128 and |x| <= 127 make 32512.
INLINE void dot_add(vi *sum, vi *pairs, int j, vb w, int32_t x, int bits) {
  if (bits == 8) {
    *sum = i_dot16(*sum, b_dot_pairs(b_abs(w), b_sign(i_set1(x), w)), i_set1(0x00010001));
    keep_order(sum);
    return;
  }
  const vi more = b_dot_pairs(w, i_set1(x));
  const bool first = j % quads_of_sum(bits) == 0;
  if (first && j > 0) *sum = dot_end(*sum, *pairs, bits);
  *pairs = first ? more : w_add(*pairs, more);
  keep_order(pairs);
}

#else

INLINE vi dot_end(vi sum, vi pairs, int bits) {
  (void)pairs, (void)bits;
  return sum;
}
INLINE void dot_add(vi *sum, vi *pairs, int j, vb w, int32_t x, int bits) {
  (void)pairs, (void)j, (void)bits;
  *sum = i_dot(*sum, w, x);
}

#endif
