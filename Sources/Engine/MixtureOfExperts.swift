// The feed-forward part of a layer: dense, or routed and shared experts (SPEC 2.5, 2.6). Tokens are grouped by expert, one product per
// touched expert; each token's sum is formed in slot order afterwards, so it does not depend on the neighbours.

import CEngine
import CKernels
import ModelFile

struct MixtureOfExperts {
  let shape: Hyperparameters
  let scratch: Scratch
  let workers: qe_workers
  let log: StageLog

  /// Reads `scratch.normed`; leaves the output in `scratch.delta` [tokens, hidden].
  func runDense(_ weights: GatedWeights, hiddenNeeds: ActivationNeeds, tokens: Int) {
    addGateUp(weights, scratch.dense, tokens: tokens, at: 0)
    multiply(.gateUp, 2)
    var silu = scratch.dense.silu(rows: tokens, needs: hiddenNeeds)
    qe_run_silu(workers, &silu, nil)
    log.mark(.activate)
    addDown(weights.down, scratch.dense, tokens: tokens, at: 0)
    multiply(.down, 1)
  }

  /// Reads `scratch.normed`; leaves the routed experts' outputs in `scratch.expertOut` (with `pairOfSlot` and `slotWeights`), the shared
  /// experts' in `scratch.delta`. `load` [experts] counts the tokens of each expert.
  func runExperts(_ weights: ExpertWeights, tokens: Int, load: UnsafeMutablePointer<UInt64>) {
    let experts = shape.expertCount
    scratch.tasks[0] = qk_matmul_task(
      w: weights.router.descriptor, x: scratch.normed.f32, x_stride: scratch.normed.columns, index: nil, tokens: tokens,
      y: scratch.routerLogits, y_stride: experts, first_job: 0, job_rows: 0)
    if let shared = weights.shared { addGateUp(shared, scratch.shared, tokens: tokens, at: 1) }
    multiply(.route, weights.shared == nil ? 1 : 3)
    route(weights, tokens: tokens, load: load)
    log.mark(.route)

    var count = 0
    for expert in 0..<experts where addRouted(weights.gate[expert], weights.up[expert], expert, at: count) { count += 2 }
    multiply(.gateUp, count)

    var routed = scratch.routed.silu(rows: tokens * shape.expertsPerToken, needs: weights.hiddenNeeds)
    var shared = scratch.shared.silu(rows: tokens, needs: weights.sharedHiddenNeeds)
    if weights.shared == nil { qe_run_silu(workers, &routed, nil) } else { qe_run_silu(workers, &routed, &shared) }
    log.mark(.activate)

    count = 0
    for expert in 0..<experts where addRoutedDown(weights.down[expert], expert, at: count) { count += 1 }
    if let shared = weights.shared {
      addDown(shared.down, scratch.shared, tokens: tokens, at: count)
      count += 1
    }
    multiply(.down, count)
  }

  /// Runs the first `count` tasks.
  private func multiply(_ stage: Stage, _ count: Int) {
    qk_pool_matmul(workers.pool, workers.kernels, scratch.tasks, count)
    log.add(stage, scratch.tasks, count: count)
    log.mark(stage)
  }

  private func route(_ weights: ExpertWeights, tokens: Int, load: UnsafeMutablePointer<UInt64>) {
    var route = qe_route(
      count: tokens, experts: shape.expertCount, chosen: shape.expertsPerToken, groups: shape.groupCount,
      groups_kept: shape.groupsPerToken, logits: scratch.routerLogits, bias: weights.bias, sigmoid: shape.scoring == .sigmoid,
      selection: shape.selection.kernelSelection, normalize: shape.normalizesTopK, scale: shape.routedScale,
      slots: scratch.slotExperts, weights: scratch.slotWeights)
    qe_run_route(workers, &route)
    var grouping = qe_grouping(
      count: tokens, experts: shape.expertCount, chosen: shape.expertsPerToken, slots: scratch.slotExperts, first: scratch.firstPair,
      pair_token: scratch.pairToken, pair_of_slot: scratch.pairOfSlot, load: load)
    qe_group_by_expert(&grouping)
  }

  private func pairs(of expert: Int) -> Range<Int> { Int(scratch.firstPair[expert])..<Int(scratch.firstPair[expert + 1]) }

  /// Gate and up products of one expert over its tokens; false if no token chose it.
  private func addRouted(_ gate: Matrix, _ up: Matrix, _ expert: Int, at place: Int) -> Bool {
    let pairs = pairs(of: expert)
    guard !pairs.isEmpty else { return false }
    scratch.tasks[place] = routedTask(gate, pairs, y: scratch.routed.gate.f32)
    scratch.tasks[place + 1] = routedTask(up, pairs, y: scratch.routed.up)
    return true
  }

  private func routedTask(_ matrix: Matrix, _ pairs: Range<Int>, y: UnsafeMutablePointer<Float>) -> qk_matmul_task {
    let source = scratch.normed.source(for: matrix)
    let width = scratch.routed.gate.columns
    return qk_matmul_task(
      w: matrix.descriptor, x: source.pointer, x_stride: source.stride, index: scratch.pairToken + pairs.lowerBound, tokens: pairs.count,
      y: y + pairs.lowerBound * width, y_stride: width, first_job: 0, job_rows: 0)
  }

  private func addRoutedDown(_ down: Matrix, _ expert: Int, at place: Int) -> Bool {
    let pairs = pairs(of: expert)
    guard !pairs.isEmpty else { return false }
    let source = scratch.routed.gate.source(for: down, row: pairs.lowerBound)
    scratch.tasks[place] = qk_matmul_task(
      w: down.descriptor, x: source.pointer, x_stride: source.stride, index: nil, tokens: pairs.count,
      y: scratch.expertOut + pairs.lowerBound * down.rows, y_stride: down.rows, first_job: 0, job_rows: 0)
    return true
  }

  private func addGateUp(_ weights: GatedWeights, _ target: GatedScratch, tokens: Int, at place: Int) {
    scratch.tasks[place] = task(weights.gate, scratch.normed, tokens: tokens, y: target.gate.f32)
    scratch.tasks[place + 1] = task(weights.up, scratch.normed, tokens: tokens, y: target.up)
  }

  private func addDown(_ down: Matrix, _ hidden: GatedScratch, tokens: Int, at place: Int) {
    scratch.tasks[place] = task(down, hidden.gate, tokens: tokens, y: scratch.delta)
  }

  private func task(_ matrix: Matrix, _ x: ActivationBuffer, tokens: Int, y: UnsafeMutablePointer<Float>) -> qk_matmul_task {
    let source = x.source(for: matrix)
    return qk_matmul_task(
      w: matrix.descriptor, x: source.pointer, x_stride: source.stride, index: nil, tokens: tokens, y: y, y_stride: matrix.rows,
      first_job: 0, job_rows: 0)
  }
}

extension Hyperparameters.Selection {
  var kernelSelection: qe_selection {
    switch self {
    case .greedy: QE_GREEDY
    case .groupLimitedGreedy: QE_GROUP_MAX
    case .biasedGroups: QE_GROUP_BIASED
    }
  }
}
