// Loops of the sampler over a whole vocabulary. See quire_sampling.h. Plain C without intrinsics: the compiler vectorises what matters,
// and the results do not depend on the CPU, so that a seed gives the same tokens on every machine (for the same logits).
#include "quire_sampling.h"

#include <math.h>
#include <stdbool.h>
#include <stddef.h>

// exp for x <= 0, relative error about 2e-7, exactly 1 at 0, 0 below -87 (and for -inf). Branch-free so that loops over it vectorise.
static inline float exp_nonpositive(float x) {
  float clamped = x < -87.0f ? -87.0f : x;
  float scaled = clamped * 1.44269504088896341f;
  // Round to nearest by the magic-number addition: |scaled| < 2^22.
  float rounded = (scaled + 12582912.0f) - 12582912.0f;
  float f = clamped - rounded * 0.693359375f;
  f = f + rounded * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * f + 1.3981999507e-3f;
  p = p * f + 8.3334519073e-3f;
  p = p * f + 4.1665795894e-2f;
  p = p * f + 1.6666665459e-1f;
  p = p * f + 5.0000001201e-1f;
  p = (p * f) * f + f + 1.0f;
  union {
    int32_t bits;
    float value;
  } power;
  power.bits = ((int32_t)rounded + 127) << 23;
  float result = p * power.value;
  return x < -87.0f ? 0.0f : result;
}

static inline bool is_finite(float x) { return x - x == 0.0f; }

static inline bool better(qe_candidate a, qe_candidate b) { return a.key > b.key || (a.key == b.key && a.id < b.id); }

void qe_sanitize_logits(const float *logits, int32_t count, const int32_t *masked, int32_t masked_count, float *clean) {
  for (int32_t i = 0; i < count; i++) {
    float x = logits[i];
    clean[i] = is_finite(x) ? x : -INFINITY;
  }
  for (int32_t i = 0; i < masked_count; i++) {
    int32_t id = masked[i];
    if (id >= 0 && id < count) clean[id] = -INFINITY;
  }
}

int32_t qe_argmax_finite(const float *values, int32_t count) {
  float lanes[16];
  for (int32_t l = 0; l < 16; l++) lanes[l] = -INFINITY;
  int32_t i = 0;
  for (; i + 16 <= count; i += 16) {
    for (int32_t l = 0; l < 16; l++) {
      float x = values[i + l];
      x = is_finite(x) ? x : -INFINITY;
      lanes[l] = x > lanes[l] ? x : lanes[l];
    }
  }
  float maximum = -INFINITY;
  for (int32_t l = 0; l < 16; l++) maximum = lanes[l] > maximum ? lanes[l] : maximum;
  for (; i < count; i++) {
    float x = values[i];
    if (is_finite(x) && x > maximum) maximum = x;
  }
  if (maximum == -INFINITY) return -1;
  for (i = 0; i < count; i++) {
    if (values[i] == maximum) return i;
  }
  return -1;
}

double qe_softmax_weights(const float *clean, int32_t count, float maximum, float temperature, float *weights) {
  double sums[8] = {0};
  int32_t i = 0;
  for (; i + 8 <= count; i += 8) {
    for (int32_t l = 0; l < 8; l++) {
      float w = exp_nonpositive((clean[i + l] - maximum) / temperature);
      weights[i + l] = w;
      sums[l] += (double)w;
    }
  }
  double sum = 0;
  for (int32_t l = 0; l < 8; l++) sum += sums[l];
  for (; i < count; i++) {
    weights[i] = exp_nonpositive((clean[i] - maximum) / temperature);
    sum += (double)weights[i];
  }
  return sum;
}

double qe_candidate_weights(qe_candidate *candidates, int32_t count, float maximum, float temperature) {
  double sum = 0;
  for (int32_t i = 0; i < count; i++) {
    candidates[i].key = exp_nonpositive((candidates[i].key - maximum) / temperature);
    sum += (double)candidates[i].key;
  }
  return sum;
}

double qe_log_sum_exp(const float *values, int32_t count) {
  int32_t best = qe_argmax_finite(values, count);
  if (best < 0) return -INFINITY;
  float maximum = values[best];
  double sums[8] = {0};
  int32_t i = 0;
  for (; i + 8 <= count; i += 8) {
    for (int32_t l = 0; l < 8; l++) {
      float x = values[i + l];
      sums[l] += (double)exp_nonpositive((is_finite(x) ? x : -INFINITY) - maximum);
    }
  }
  double sum = 0;
  for (int32_t l = 0; l < 8; l++) sum += sums[l];
  for (; i < count; i++) {
    float x = values[i];
    sum += (double)exp_nonpositive((is_finite(x) ? x : -INFINITY) - maximum);
  }
  return (double)maximum + log(sum);
}

// Partitions around a pseudo-random pivot: better ones first. Returns the pivot's final place. The order is total (ids differ), so there are
// no equal elements and no quadratic case for constant logits.
static int32_t partition(qe_candidate *c, int32_t low, int32_t high, uint32_t *state) {
  *state = *state * 1664525u + 1013904223u;
  int32_t chosen = low + (int32_t)(((uint64_t)(*state) * (uint64_t)(high - low)) >> 32);
  qe_candidate pivot = c[chosen];
  c[chosen] = c[high - 1];
  c[high - 1] = pivot;
  int32_t place = low;
  for (int32_t i = low; i < high - 1; i++) {
    qe_candidate x = c[i];
    if (better(x, pivot)) {
      c[i] = c[place];
      c[place] = x;
      place++;
    }
  }
  c[high - 1] = c[place];
  c[place] = pivot;
  return place;
}

static void sort_best_first(qe_candidate *c, int32_t low, int32_t high) {
  for (int32_t i = low + 1; i < high; i++) {
    qe_candidate x = c[i];
    int32_t j = i;
    while (j > low && better(x, c[j - 1])) {
      c[j] = c[j - 1];
      j--;
    }
    c[j] = x;
  }
}

static void select_count(qe_candidate *c, int32_t count, int32_t k) {
  uint32_t state = 0x9E3779B9u;
  int32_t low = 0, high = count;
  while (high - low > 1) {
    int32_t place = partition(c, low, high, &state);
    if (place == k || place == k - 1) return;
    if (place > k) {
      high = place;
    } else {
      low = place + 1;
    }
  }
}

int32_t qe_select_top(const float *clean, int32_t count, int32_t k, qe_candidate *candidates) {
  if (k <= 0) return 0;
  int64_t room = 2 * (int64_t)k < 1024 ? 1024 : 2 * (int64_t)k;
  int32_t capacity = room < count ? (int32_t)room : count;
  int32_t held = 0;
  float threshold = -INFINITY;
  for (int32_t i = 0; i < count; i++) {
    // Equal to the k-th best seen but with a higher id: never better. So a strict comparison is exact.
    if (!(clean[i] > threshold)) continue;
    if (held == capacity) {
      select_count(candidates, held, k);
      held = k;
      threshold = candidates[0].key;
      for (int32_t j = 1; j < k; j++) threshold = candidates[j].key < threshold ? candidates[j].key : threshold;
      if (!(clean[i] > threshold)) continue;
    }
    candidates[held].key = clean[i];
    candidates[held].id = i;
    held++;
  }
  if (held > k) {
    select_count(candidates, held, k);
    held = k;
  }
  return held;
}

int32_t qe_collect_at_least(const float *weights, int32_t count, float floor, qe_candidate *candidates) {
  int32_t held = 0;
  for (int32_t i = 0; i < count; i++) {
    float w = weights[i];
    if (w >= floor && w > 0.0f) {
      candidates[held].key = w;
      candidates[held].id = i;
      held++;
    }
  }
  return held;
}

int32_t qe_select_mass(qe_candidate *c, int32_t count, double mass) {
  if (count <= 1) return count;
  uint32_t state = 0x9E3779B9u;
  int32_t low = 0, high = count;
  double before = 0;  // sum of the keys of c[0 ..< low]
  while (high - low > 24) {
    int32_t place = partition(c, low, high, &state);
    double left = before;
    for (int32_t i = low; i < place; i++) left += (double)c[i].key;
    if (left >= mass && place > 0) {
      high = place;
    } else if (left + (double)c[place].key >= mass) {
      return place + 1;
    } else {
      before = left + (double)c[place].key;
      low = place + 1;
    }
  }
  sort_best_first(c, low, high);
  for (int32_t i = low; i < high; i++) {
    before += (double)c[i].key;
    if (before >= mass) return i + 1;
  }
  return high > 0 ? high : 1;
}

int32_t qe_keep_at_least(qe_candidate *candidates, int32_t count, float floor) {
  int32_t kept = 0;
  for (int32_t i = 0; i < count; i++) {
    if (candidates[i].key >= floor) candidates[kept++] = candidates[i];
  }
  return kept;
}

int32_t qe_draw_candidate(const qe_candidate *candidates, int32_t count, double uniform) {
  double total = 0;
  for (int32_t i = 0; i < count; i++) total += (double)candidates[i].key;
  double target = uniform * total, running = 0;
  int32_t last = -1;
  for (int32_t i = 0; i < count; i++) {
    if (!(candidates[i].key > 0.0f)) continue;
    last = candidates[i].id;
    running += (double)candidates[i].key;
    if (running > target) return last;
  }
  return last;
}

int32_t qe_draw_weight(const float *weights, int32_t count, double total, double uniform) {
  double target = uniform * total, running = 0;
  int32_t last = -1;
  for (int32_t i = 0; i < count; i++) {
    if (!(weights[i] > 0.0f)) continue;
    last = i;
    running += (double)weights[i];
    if (running > target) return last;
  }
  return last;
}

int32_t qe_top_sorted(const float *values, int32_t count, int32_t k, qe_candidate *best) {
  int32_t held = 0;
  if (k <= 0) return 0;
  for (int32_t i = 0; i < count; i++) {
    float x = values[i];
    if (!is_finite(x)) continue;
    if (held == k && !(x > best[k - 1].key)) continue;
    int32_t j = held < k ? held++ : k - 1;
    while (j > 0 && x > best[j - 1].key) {
      best[j] = best[j - 1];
      j--;
    }
    best[j].key = x;
    best[j].id = i;
  }
  return held;
}
