// Errors keep OpenAI's shape whatever text is in them.

import FoundationEssentials
import Scheduler
import Testing

@testable import Serving

@Suite("API errors")
struct APIErrorTests {
  private struct Body: Decodable {
    struct Inner: Decodable {
      let message: String
      let type: String
      let param: String?
      let code: String?
    }
    let error: Inner
  }

  @Test("the body is OpenAI's, and hostile text stays text")
  func shape() throws {
    let hostile = APIError.invalid("a\"b", "line\nbreak \"quoted\" \u{1} é")
    let body = try JSONDecoder().decode(Body.self, from: Data(hostile.body)).error
    #expect(body.message == hostile.message && body.type == "invalid_request_error" && body.param == "a\"b" && body.code == nil)
    let text = String(decoding: APIError.draining.body, as: UTF8.self)
    #expect(text.contains("\"param\":null") && text.contains("\"code\":\"draining\""))
  }

  @Test("statuses carry the headers that clients act on")
  func headers() {
    #expect(APIError.queueFull(limit: 5).headers.contains { $0 == ("Retry-After", "1") })
    #expect(APIError.draining.status == 503 && APIError.draining.headers.contains { $0.0 == "Retry-After" })
    #expect(APIError.loading.status == 503 && APIError.loading.headers.contains { $0.0 == "Retry-After" })
    #expect(APIError.unauthorized.headers.contains { $0.0 == "WWW-Authenticate" })
    #expect(APIError.protocolError(status: 404, message: "x").headers.map(\.0) == ["Content-Type"])
  }

  @Test("what the scheduler refuses becomes a status a client understands")
  func scheduler() {
    #expect(APIError(SchedulerError.queueFull(limit: 3)).status == 429)
    #expect(APIError(SchedulerError.emptyPrompt).status == 400)
    let long = APIError(SchedulerError.promptTooLong(tokens: 9, limit: 5))
    #expect(long.status == 400 && long.code == "context_length_exceeded" && long.param == "prompt")
    #expect(APIError(SchedulerError.poolTooSmall(tokensNeeded: 9, tokensAvailable: 5)).code == "context_length_exceeded")
  }
}
