/* The forward pass of a dense Qwen2 or Qwen3 decoder in bfloat16, a step of many sequences a call.
 *
 * It computes what engines/builtin/model.py computes, with the same roundings. Every thread of the
 * team walks through the same stages, does its share of each and waits for the others in between.
 * A layer has four stages that end where a caller may want to change what was computed:
 *
 *   0  [hidden += delta]; normed = norm(hidden); qkv = normed by qkv
 *   1  queries and keys normed and turned, keys and values cached; attended; delta = ... by output
 *   2  hidden += delta; normed = norm(hidden); [gate_up = normed by gate_up]
 *   3  [activated = silu(gate) * up; delta = activated by down]
 *
 * What stands in brackets in 2 and 3 is left out where the feed-forward part is somebody else's, who
 * makes `delta` of `normed`. After the last layer's stage 3 comes one stage of its own: the logits. */
#include <omp.h>

#include "attention.h"

typedef struct {
    const half_t *input_norm, *qk_norm, *middle_norm; /* qk_norm may be null: [heads + kv_heads] rows */
    matrix_t qkv, output, gate_up, down; /* gate_up without panels: the feed-forward is not ours */
} layer_t;

typedef struct {
    const layer_t *layer;
    matrix_t head;
    const half_t *final_norm;
    const half_t *embedding; /* [vocabulary, hidden]; null: the head's panels, which are the same */
    const half_t *cos, *sin; /* [context, head_size] */
    int64_t layers, hidden, heads, kv_heads, head_size, intermediate, threads;
    double epsilon;
} model_t;

typedef struct {
    int64_t rows, outputs;
    const int64_t *tokens, *positions, *slots; /* of each row */
    const int64_t *output_rows;
    half_t *keys, *values; /* the cache: [layers, blocks, kv_heads, block_tokens, head_size] */
    int64_t blocks, block_tokens;
    const int64_t *tables; /* [slots, table_width]: the blocks of each slot's sequence, in order */
    int64_t table_width;
    half_t *hidden, *normed, *qkv, *attended, *gate_up, *activated, *delta;
    float *logits; /* [outputs, vocabulary] */
    uint32_t *packed; /* room for the widest rows, packed */
    int64_t *runs; /* room for two numbers a row, and one more */
    int64_t *counters; /* room for `counters_needed` */
    char *scratch; /* `scratch_bytes` for each thread, on a border of 64 bytes */
    int64_t scratch_stride;
} step_t;

typedef struct {
    const model_t *m;
    const step_t *s;
    int64_t thread, threads;
    int64_t *counter; /* of the next stage that deals out work */
    char *scratch;
} worker_t;

enum { COUNTER_GAP = 8, COUNTERS_A_LAYER = 5 };

int64_t counters_needed(int64_t layers) { return (layers * COUNTERS_A_LAYER + 1) * COUNTER_GAP; }

int64_t scratch_needed(int64_t widest_input, int64_t context) {
    int64_t panel = widest_input * PANEL * 2, scores = 2 * (context + 16) * 4;
    int64_t most = panel > scores ? panel : scores;
    if (most < (int64_t)sizeof(block_t)) most = sizeof(block_t);
    return (most + 4095) / 4096 * 4096;
}

static void wait_for_all(void) {
#pragma omp barrier
}

static int64_t *next_counter(worker_t *w) { return w->counter += COUNTER_GAP; }

/* This thread's share of `count` things: from `first` up to what is returned. */
static int64_t share_of(const worker_t *w, int64_t count, int64_t *first) {
    *first = count * w->thread / w->threads;
    return count * (w->thread + 1) / w->threads;
}

static void embed(worker_t *w) {
    const model_t *m = w->m;
    int64_t row, end = share_of(w, w->s->rows, &row);
    for (; row < end; row++) {
        half_t *to = w->s->hidden + row * m->hidden;
        const int64_t token = w->s->tokens[row];
        if (m->embedding) {
            memcpy(to, m->embedding + token * m->hidden, 2 * m->hidden);
            continue;
        }
        const uint32_t *panel = (const uint32_t *)panel_at(&m->head, token / PANEL) + token % PANEL;
        for (int64_t pair = 0; pair < m->hidden / 2; pair++)
            memcpy(to + 2 * pair, panel + pair * PANEL, 4);
    }
}

static void norm_row(const half_t *from, const half_t *weight, int64_t size, double epsilon,
                     half_t *to) {
    float squares = 0.0f;
#pragma omp simd reduction(+ : squares)
    for (int64_t i = 0; i < size; i++) squares += widened(from[i]) * widened(from[i]);
    const float scale = 1.0f / sqrtf(squares / (float)size + (float)epsilon);
#pragma omp simd
    for (int64_t i = 0; i < size; i++)
        to[i] = narrowed(widened(weight[i]) * at_half(widened(from[i]) * scale));
}

static void add_and_norm(worker_t *w, int add, const half_t *weight) {
    const int64_t size = w->m->hidden;
    int64_t row, end = share_of(w, w->s->rows, &row);
    for (; row < end; row++) {
        half_t *hidden = w->s->hidden + row * size, *normed = w->s->normed + row * size;
        const half_t *delta = w->s->delta + row * size;
        if (add) {
#pragma omp simd
            for (int64_t i = 0; i < size; i++)
                hidden[i] = narrowed(widened(hidden[i]) + widened(delta[i]));
        }
        norm_row(hidden, weight, size, w->m->epsilon, normed);
        pack_values(w->s->packed, w->s->rows, size, row, 0, normed, size);
    }
    wait_for_all();
}

static void project(worker_t *w, const matrix_t *matrix, half_t *out) {
    product(matrix, w->s->packed, w->s->rows, out, 0, (uint32_t *)w->scratch, next_counter(w));
    wait_for_all();
}

static void turn(half_t *head, const half_t *cos, const half_t *sin, int64_t size) {
    half_t turned[LARGEST_HEAD];
    const int64_t half = size / 2;
#pragma omp simd
    for (int64_t i = 0; i < half; i++) {
        float low = widened(head[i]), high = widened(head[i + half]);
        turned[i] = narrowed(at_half(low * widened(cos[i])) + at_half(high * widened(sin[i])));
        turned[i + half] = narrowed(at_half(high * widened(cos[i + half])) +
                                    at_half(low * widened(sin[i + half])));
    }
    memcpy(head, turned, 2 * size);
}

/* Queries stay in `qkv`, turned; keys and values go to the cache. */
static void turn_and_cache(worker_t *w, const layer_t *layer, half_t *keys, half_t *values) {
    const model_t *m = w->m;
    const step_t *s = w->s;
    const int64_t size = m->head_size, turning = m->heads + m->kv_heads;
    const int64_t heads = turning + m->kv_heads;
    int64_t at, end = share_of(w, s->rows * heads, &at);
    for (; at < end; at++) {
        const int64_t row = at / heads, head = at % heads, position = s->positions[row];
        half_t *own = s->qkv + at * size;
        if (head < turning) {
            if (layer->qk_norm) norm_row(own, layer->qk_norm + head * size, size, m->epsilon, own);
            turn(own, m->cos + position * size, m->sin + position * size, size);
        }
        if (head >= m->heads) {
            const int64_t *table = s->tables + s->slots[row] * s->table_width;
            int64_t to = table[position / s->block_tokens] * m->kv_heads;
            to += head < turning ? head - m->heads : head - turning;
            to = (to * s->block_tokens + position % s->block_tokens) * size;
            memcpy((head < turning ? keys : values) + to, own, 2 * size);
        }
    }
    wait_for_all();
}

/* Pairs of first row and count: rows of one sequence that follow each other, few enough for a block;
 * before them, how many pairs there are. */
static void find_runs(const model_t *m, const step_t *s) {
    const int64_t most = VECTORS / (m->heads / m->kv_heads);
    int64_t found = 0, *run = s->runs + 1;
    for (int64_t row = 0; row < s->rows; row++) {
        if (found && run[1] < most && s->slots[row] == s->slots[row - 1] &&
            s->positions[row] == s->positions[row - 1] + 1) {
            run[1]++;
            continue;
        }
        run = s->runs + 1 + 2 * found++;
        run[0] = row;
        run[1] = 1;
    }
    s->runs[0] = found;
}

static void attend(worker_t *w, const half_t *keys, const half_t *values) {
    const model_t *m = w->m;
    const step_t *s = w->s;
    const int64_t size = m->head_size, group = m->heads / m->kv_heads, width = group * size;
    const int64_t row_stride = (m->heads + 2 * m->kv_heads) * size, out_stride = m->heads * size;
    int64_t *counter = next_counter(w), tasks = s->runs[0] * m->kv_heads;
    for (int64_t task = claim(counter); task < tasks; task = claim(counter)) {
        const int64_t *run = s->runs + 1 + 2 * (task / m->kv_heads);
        const int64_t head = task % m->kv_heads, first = run[0], count = run[1];
        const int64_t place = head * s->block_tokens * size;
        const attention_t a = {
            .queries = s->qkv + first * row_stride + head * width,
            .keys = keys + place,
            .values = values + place,
            .table = s->tables + s->slots[first] * s->table_width,
            .block_stride = m->kv_heads * s->block_tokens * size,
            .block_tokens = s->block_tokens,
            .length = s->positions[first] + count,
            .head_size = size,
            .scale = 1.0f / sqrtf((float)size),
        };
        half_t *out = s->attended + first * out_stride + head * width;
        if (count == 1)
            attend_one(&a, group, out, (float *)w->scratch);
        else
            attend_many(&a, count, group, row_stride, out, out_stride, (block_t *)w->scratch);
        for (int64_t i = 0; i < count; i++)
            pack_values(s->packed, s->rows, out_stride, first + i, head * width,
                        out + i * out_stride, width);
    }
    wait_for_all();
}

static void activate(worker_t *w) {
    const step_t *s = w->s;
    const int64_t size = w->m->intermediate, pieces = size / PANEL;
    int64_t at, end = share_of(w, s->rows * pieces, &at);
    for (; at < end; at++) {
        const int64_t row = at / pieces, first = at % pieces * PANEL;
        const half_t *gate = s->gate_up + row * 2 * size + first, *up = gate + size;
        half_t *to = s->activated + row * size + first;
#pragma omp simd
        for (int i = 0; i < PANEL; i++) {
            float value = widened(gate[i]);
            to[i] = narrowed(at_half(value / (1.0f + exponential(-value))) * widened(up[i]));
        }
        pack_values(s->packed, s->rows, size, row, first, to, PANEL);
    }
    wait_for_all();
}

static void logits(worker_t *w) {
    const model_t *m = w->m;
    const step_t *s = w->s;
    const int64_t size = m->hidden;
    int64_t i, end = share_of(w, s->outputs, &i);
    for (; i < end; i++) {
        half_t *hidden = s->hidden + s->output_rows[i] * size, *normed = s->normed + i * size;
        const half_t *delta = s->delta + s->output_rows[i] * size;
        for (int64_t j = 0; j < size; j++)
            hidden[j] = narrowed(widened(hidden[j]) + widened(delta[j]));
        norm_row(hidden, m->final_norm, size, m->epsilon, normed);
        pack_values(s->packed, s->outputs, size, i, 0, normed, size);
    }
    wait_for_all();
    product(&m->head, s->packed, s->outputs, 0, s->logits, (uint32_t *)w->scratch, next_counter(w));
}

static void run_stage(worker_t *w, int64_t stage) {
    const step_t *s = w->s;
    const int64_t index = stage / 4;
    if (index == w->m->layers) {
        if (s->outputs) logits(w);
        return;
    }
    const layer_t *layer = w->m->layer + index;
    switch (stage % 4) {
        case 0:
            if (index == 0) embed(w); /* each thread norms the rows that it fetched */
            add_and_norm(w, index > 0, layer->input_norm);
            project(w, &layer->qkv, s->qkv);
            break;
        case 1: {
            const int64_t all = s->blocks * w->m->kv_heads * s->block_tokens * w->m->head_size;
            half_t *keys = s->keys + index * all, *values = s->values + index * all;
            turn_and_cache(w, layer, keys, values);
            attend(w, keys, values);
            project(w, &layer->output, s->delta);
            break;
        }
        case 2:
            add_and_norm(w, 1, layer->middle_norm);
            if (layer->gate_up.panels) project(w, &layer->gate_up, s->gate_up);
            break;
        case 3:
            if (!layer->gate_up.panels) break;
            activate(w);
            project(w, &layer->down, s->delta);
            break;
    }
}

/* Runs stages `first` up to, but not with, `end`; stage 4 * layers is the last one. */
void run_stages(const model_t *m, const step_t *s, int64_t first, int64_t end) {
    memset(s->counters, 0, counters_needed(m->layers) * sizeof(int64_t));
    if (first == 0) find_runs(m, s);
#pragma omp parallel num_threads(m->threads)
    {
        worker_t w = {.m = m, .s = s, .thread = omp_get_thread_num()};
        w.threads = omp_get_num_threads();
        w.counter = s->counters - COUNTER_GAP;
        w.scratch = s->scratch + w.thread * s->scratch_stride;
        for (int64_t stage = first; stage < end; stage++) run_stage(&w, stage);
    }
}
