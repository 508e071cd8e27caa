//! A line to another node: questions on a stream that stays open, each with a number.
//!
//! Opening a stream for every question costs more than the question. What is asked in rounds, one after another, is asked
//! on a line, and an answer counts for the question that it names and for no other: one that comes late is passed over.

use ballast_proto::cluster::v1::{FollowsReply, ReadIndexReply};
use futures_util::{Stream, StreamExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// A node that leaves so many questions unanswered is asked no more until it has answered all of them.
const UNANSWERED_MAX: usize = 64;

/// An answer that names its question.
pub(crate) trait Answer {
    fn question(&self) -> u64;
}

impl Answer for ReadIndexReply {
    fn question(&self) -> u64 {
        self.question
    }
}

impl Answer for FollowsReply {
    fn question(&self) -> u64 {
        self.question
    }
}

/// A line to one node, open or not: questions `Q`, and a stream of answers.
#[derive(Debug)]
pub(crate) struct Line<Q, S> {
    open: Option<(mpsc::Sender<Q>, S)>,
    asked: u64,
    answered: u64,
}

impl<Q, S> Default for Line<Q, S> {
    fn default() -> Self {
        Self { open: None, asked: 0, answered: 0 }
    }
}

impl<Q, A: Answer, S: Stream<Item = Result<A, Status>> + Unpin> Line<Q, S> {
    /// Asks what `question` makes of a number, and waits for the answer to it. `open` opens the stream if there is none.
    ///
    /// # Errors
    /// When the stream cannot be opened or ends. The next question opens another one.
    ///
    /// # Cancel safety
    /// Dropping the future gives the answer up; the line goes on.
    pub(crate) async fn ask(
        &mut self,
        question: impl FnOnce(u64) -> Q,
        open: impl AsyncFnOnce(ReceiverStream<Q>) -> Result<S, Status>,
    ) -> Result<A, Status> {
        if self.open.is_none() {
            let (questions, outbound) = mpsc::channel(UNANSWERED_MAX);
            let answers = open(ReceiverStream::new(outbound)).await?;
            self.open = Some((questions, answers));
            self.answered = self.asked;
        }
        let asked = self.ask_open(question).await;
        if asked.is_err() {
            self.open = None;
        }
        asked
    }

    async fn ask_open(&mut self, question: impl FnOnce(u64) -> Q) -> Result<A, Status> {
        let ended = || Status::unavailable("the node ended the stream of questions");
        let (questions, answers) = self.open.as_mut().ok_or_else(ended)?;
        while self.asked - self.answered >= UNANSWERED_MAX as u64 {
            self.answered = answers.next().await.ok_or_else(ended)??.question();
        }
        self.asked += 1;
        questions.send(question(self.asked)).await.map_err(|_| ended())?;
        loop {
            let answer = answers.next().await.ok_or_else(ended)??;
            self.answered = answer.question();
            if self.answered == self.asked {
                return Ok(answer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    type TestLine = Line<u64, ReceiverStream<Result<FollowsReply, Status>>>;

    /// Both ends of a line that is open, as the node that is asked has them.
    async fn opened() -> (TestLine, ReceiverStream<u64>, mpsc::Sender<Result<FollowsReply, Status>>) {
        let (answer, answers) = mpsc::channel(100);
        let mut line = TestLine::default();
        let mut questions = None;
        let asked = line.ask(
            |number| number,
            async |outbound| {
                questions = Some(outbound);
                Ok(ReceiverStream::new(answers))
            },
        );
        assert!(asked.now_or_never().is_none(), "nobody answers yet");
        (line, questions.expect("opened"), answer)
    }

    async fn never(_: ReceiverStream<u64>) -> Result<ReceiverStream<Result<FollowsReply, Status>>, Status> {
        panic!("it is open")
    }

    fn reply(question: u64, follows: bool) -> Result<FollowsReply, Status> {
        Ok(FollowsReply { question, follows })
    }

    #[tokio::test]
    async fn an_answer_that_comes_late_is_not_taken_for_one_to_the_next_question() {
        let (mut line, mut questions, answer) = opened().await;
        assert_eq!(questions.next().await, Some(1));
        answer.send(reply(1, true)).await.expect("somebody listens");
        assert!(line.ask(|number| number, never).now_or_never().is_none());
        assert_eq!(questions.next().await, Some(2));
        answer.send(reply(2, false)).await.expect("somebody listens");
        answer.send(reply(3, true)).await.expect("somebody listens");
        let answered = line.ask(|number| number, never).await.expect("answered");
        assert_eq!(answered, FollowsReply { question: 3, follows: true });
    }

    #[tokio::test]
    async fn a_node_that_does_not_answer_is_not_asked_for_ever() {
        let (mut line, mut questions, answer) = opened().await;
        for _ in 0..200 {
            assert!(line.ask(|number| number, never).now_or_never().is_none());
        }
        for number in 1..=UNANSWERED_MAX as u64 {
            assert_eq!(questions.next().await, Some(number));
            answer.send(reply(number, true)).await.expect("somebody listens");
        }
        assert!(questions.next().now_or_never().is_none(), "no more were asked");
        assert!(line.ask(|number| number, never).now_or_never().is_none());
        assert_eq!(questions.next().await, Some(UNANSWERED_MAX as u64 + 1));
    }

    #[tokio::test]
    async fn a_line_that_ended_is_opened_again() {
        let (mut line, questions, answer) = opened().await;
        drop((questions, answer));
        assert!(line.ask(|number| number, never).await.is_err());
        let (answer, answers) = mpsc::channel(1);
        // The second found nobody.
        answer.send(reply(3, true)).await.expect("room for one");
        let mut questions = None;
        let answered = line.ask(
            |number| number,
            async |outbound| {
                questions = Some(outbound);
                Ok(ReceiverStream::new(answers))
            },
        );
        assert_eq!(answered.await.map(|answer| answer.question).ok(), Some(3));
    }
}
